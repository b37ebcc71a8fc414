"""The dashboard: pages that explain a federation, live. They read selectors and call verbs."""
