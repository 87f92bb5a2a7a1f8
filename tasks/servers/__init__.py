"""The servers of a home's local stack, as others need to know them: their addresses and login.

Public: `stack_record`, `login`, `database_addresses`. It imports the library. The servers
themselves are in `flows.servers`.
"""
