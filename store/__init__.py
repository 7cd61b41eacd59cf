"""What the router and the controller exchange, and where it is kept."""
