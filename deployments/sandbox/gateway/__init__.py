"""The platform's API gateway: OAuth2 and presigned URLs."""
