"""What this process computes with: processors, threads, GPUs, and torch when it is first needed.

Public: `lazy_torch.torch`, `devices`, `threads`, `processors`, `timings`, `gpu_memory`,
`gpu_transfers`. It knows no file and no tensor; it imports only the library's errors and `text`.
"""
