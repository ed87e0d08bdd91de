"""Warnings that point at the line of the user, however deep below it they arise."""

from linlocal.inputs import warn as warn
