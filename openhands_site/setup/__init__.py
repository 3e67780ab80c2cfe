"""The setup checklist: what the administrators of a new installation still have to do."""
