"""The causes of trouble in a status: what is wrong, since when, what lookups get, what to do.

Pure. `projector status` and the operators' page show the same sentences.
"""
