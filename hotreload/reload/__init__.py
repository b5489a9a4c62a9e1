"""The reload flow: trigger → load → validate → plan → apply → report. One module a stage; `coordinator` joins them."""
