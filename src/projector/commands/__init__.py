"""The commands of `projector`: options, what they print, exit codes."""
