"""Kubernetes' own specs on labs, in the order of the flow: `suite` is what is run, `images` what its pods run, `surroundings` what a
lab gets for it, `specs` which specs there are, which are not to pass and which need more nodes, `labs` which lab runs which, `rounds` runs
them, `outcome` is what became of each, `results` keeps it, `document` writes it down.
"""
