"""Who may do what: roles, personal API tokens, and the permission that every API view asks."""
