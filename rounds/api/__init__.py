"""The doors of HTTP: they parse, call one verb, render."""
