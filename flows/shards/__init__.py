"""Workers beside each other: dead shards are started again; the platform's slots are shared."""
