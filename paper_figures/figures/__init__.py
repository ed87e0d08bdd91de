"""The figures: every module in this folder is one."""
