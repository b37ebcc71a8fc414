"""The registry over HTTP: models, versions, publish, roll back, import and export."""
