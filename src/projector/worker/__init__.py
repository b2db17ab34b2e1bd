"""The write side's process: one owner per assigned partition."""
