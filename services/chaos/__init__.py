"""Asks for servers to be killed, so that replacing them stays ordinary. It does nothing in AWS."""
