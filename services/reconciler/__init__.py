"""Stands between healthy and wanted: the only hand that terminates, detaches or marks servers of a fleet."""
