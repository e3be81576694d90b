"""The six services. Each is started with ``python -m services.NAME`` and configured by environment only."""
