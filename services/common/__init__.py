"""The shelf: what every service needs and none owns. It imports no service and knows no pod's life."""
