"""Imports every third-party part that the Python programs beside this one use."""

import importlib
from importlib.metadata import version

MODULES = [
    "bolthub",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cvc5",
    "eth_account",
    "joserfc.jws",
    "jwt",
    "l402_requests",
    "mcp.client.streamable_http",
    "protocol_tests.l402_harness",
    "pymacaroons",
    "x402.mcp.client",
    "x402.mechanisms.evm.exact.register",
]
PACKAGES = [
    "agent-security-harness", "bolthub", "joserfc", "l402-requests", "mcp", "PyJWT", "pymacaroons", "x402",
]

for module in MODULES:
    importlib.import_module(module)
print(", ".join(f"{package} {version(package)}" for package in PACKAGES))
