"""Is what was sent there: the bucket, the registry, the instances themselves; and what repairs it."""
