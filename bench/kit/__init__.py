"""What the benchmark is made of, in the order in which a run meets it:

- `cluster`: pods by the API server, seen through a watch;
- `plugins`: CNI implementations that take turns;
- `cloud`: bare calls to Neutron, and what Kuryr asked of it;
- `usage`: what processes used, and what they say of themselves;
- `wire`: how fast bytes go, and how long they take;
- `rounds`: what is measured, and in which order;
- `tables`, `picture`: figures and a picture of them, from the samples of a run.

For Services (`bench/services`):

- `many`: Services and EndpointSlices, written by hand, and changes of them;
- `proxy`: kube-proxy, which is compared with;
- `balancers`: load balancers, by Kuryr and step by step;
- `following`: the figures.
"""
