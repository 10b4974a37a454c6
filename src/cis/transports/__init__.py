"""How nodes reach each other: the signed envelope, HTTP push, the Matrix room."""
