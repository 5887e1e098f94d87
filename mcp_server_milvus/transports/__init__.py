"""How bytes reach the server: stdio and HTTP."""
