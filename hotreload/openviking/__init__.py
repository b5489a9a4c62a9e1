"""Reload, drain and recovery for the stock OpenViking server: the only code that imports openviking."""
