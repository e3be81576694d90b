"""The Auto Scaling HTTP API over moto's dispatch; the groups themselves are in ``groups.py``, which states the seam."""
