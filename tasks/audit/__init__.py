"""The audit trail, its check, the certificate."""
