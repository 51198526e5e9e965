"""Printed and drawn views of data sets and rows. Only commands import from here."""
