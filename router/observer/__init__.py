"""The observer: from what workers saw to evidence."""
