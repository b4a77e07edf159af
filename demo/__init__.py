"""``make demo``: three nights of a drawn catalogue, and what is checked and shown of them."""
