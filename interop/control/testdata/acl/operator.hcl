# The token of those who may change what the mesh does: apply, rollback, delete, and the
# commands of canaries and experiments.

key_prefix "pillion/v1/services/" { policy = "write" }
key_prefix "pillion/v1/history/" { policy = "write" }

# How it all stands.
key_prefix "pillion/v1/" { policy = "read" }

# For plan, which asks the sidecars what they have recorded.
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
