"""Figures and claims from saved results; nothing is trained here."""
