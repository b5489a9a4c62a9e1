"""The drain flow: request → quiesce → grace → interrupt → flush → report. One module a stage."""
