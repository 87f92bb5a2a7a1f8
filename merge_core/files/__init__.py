"""Files as such: read strictly where strangers wrote them, written so that only their owner reads
them, known by their digests.

Public: `untrusted`, `named_file`, `bounded_json`, `strict_yaml` to read; `digests`, `hashing`,
`sha256sums` to know a file again; `private`, `owners`, `read_only`, `removal` for who may do what
with it; `locks`; `written_path` for what people write, `new_file` for what is written for them.
`names` says which files of a checkpoint's directory mean something, and so which a digest covers.
It imports `runtime` and the foot of the library.
"""
