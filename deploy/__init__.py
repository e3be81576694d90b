"""How the system gets to AWS: fleets, groups, queues and topics."""
