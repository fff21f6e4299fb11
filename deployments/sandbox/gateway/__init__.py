"""The platform's API gateway: OAuth2, presigned URLs, STOW-RS; QIDO-RS and WADO-RS passed on."""
