"""What runs inside a site's own endpoint, apart from the client: its command, its pods."""
