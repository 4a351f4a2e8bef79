# Where Python's memory comes from in a zygote and its workers. jail_arenas.py holds this as bytes; after a change
# here tests/integration/test_arenas.py fails and shows the new ones.
#
# Both functions are called by Python's allocator (PyMem arena allocator), with the first word of a table:
#
#     0 next free address   8 end of the region   16 its beginning
#    24 alloc, 32 context, 40 free of the allocator that was there before
#
# The region is addresses without memory. An arena is made writable when it is asked for, which is what the limit on
# memory (RLIMIT_DATA) counts; an arena that is given back loses its memory and its rights again.

.intel_syntax noprefix
.text
alloc:                          # (table, size): the address, or 0
    mov rax, [rdi]
    lea rdx, [rax + rsi]
    cmp rdx, [rdi + 8]
    ja 1f
    push rdi
    push rax
    push rdx
    mov rdi, rax
    mov edx, 3                  # PROT_READ | PROT_WRITE
    mov eax, 10                 # mprotect
    syscall
    pop rdx
    pop rcx
    pop rdi
    test rax, rax
    jne 2f
    mov [rdi], rdx
    mov rax, rcx
    ret
1:  mov rax, [rdi + 24]         # The region is full
    mov rdi, [rdi + 32]
    jmp rax
2:  xor eax, eax
    ret

.balign 16
free:                           # (table, address, size)
    cmp rsi, [rdi + 16]
    jb 2f
    cmp rsi, [rdi + 8]
    jae 2f
    lea rax, [rsi + rdx]
    cmp rax, [rdi]
    jne 1f
    mov [rdi], rsi              # It was the last one, and comes next again
1:  mov rdi, rsi
    mov rsi, rdx
    push rdi
    push rsi
    mov edx, 4                  # MADV_DONTNEED
    mov eax, 28                 # madvise
    syscall
    pop rsi
    pop rdi
    xor edx, edx                # PROT_NONE
    mov eax, 10                 # mprotect
    syscall
    ret
2:  mov rax, [rdi + 40]         # Of the time before us
    mov rdi, [rdi + 32]
    jmp rax
