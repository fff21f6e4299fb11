"""Whom files are sent to: HTTP, the upload API, credentials, proxies."""
