# The token of a sidecar beside the app "greeter".

# What people have written: it is read, never changed. The history tells what was deleted
# from what was lost.
key_prefix "pillion/v1/services/" { policy = "read" }
key_prefix "pillion/v1/history/" { policy = "read" }

# How canaries and experiments stand, what they have been through, and who decides on
# them. Any sidecar that calls a service may be elected to decide on it.
key_prefix "pillion/v1/state/" { policy = "write" }
key_prefix "pillion/v1/transitions/" { policy = "write" }
key_prefix "pillion/v1/leaders/" { policy = "write" }

# What it says of itself. A sidecar without an app writes below "pillion/v1/reports/_/".
key_prefix "pillion/v1/reports/greeter/" { policy = "write" }

# Its status, and its being elected, go with it. With the name of the machine's node,
# session "NODE", it can end no other machine's sessions.
session_prefix "" { policy = "write" }

# It registers its app and itself, and finds the others.
service "greeter" { policy = "write" }
service "greeter-sidecar-proxy" { policy = "write" }
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
