"""The platform on one machine: upload API, OAuth2, object store, DICOMweb server, sample studies."""
