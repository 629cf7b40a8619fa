# The token of those who may look: get, diff, history, status, reports.

key_prefix "pillion/v1/" { policy = "read" }

service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
