"""Kubernetes' own specs on the lab, in the order of the flow: `suite` is what is run, `images` what its pods run, `surroundings` what the
lab gets for it, `specs` which specs there are and which are not to pass, `rounds` runs them, `outcome` is what became of each, `document`
writes it down.
"""
