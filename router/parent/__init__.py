"""The parent of one router host: routes, children, sockets and disk."""
