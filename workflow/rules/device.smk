# Where networks compute: for both workflows, on one machine and on a cluster.

ON_CLUSTER = workflow.remote_exec or workflow.nodes is not None

# On the GPU that a cluster or a limit (--resources gpu=N) promises, or else as it comes.
if ON_CLUSTER:
    DEVICE = "cuda"
elif "gpu" in workflow.global_resources:
    DEVICE = "cuda" if workflow.global_resources["gpu"].value else "cpu"
else:
    DEVICE = "auto"
