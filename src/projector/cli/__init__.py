"""The commands of `projector`: options, output, exit codes."""
