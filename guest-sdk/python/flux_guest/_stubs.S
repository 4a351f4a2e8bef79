# What the C library and the kernel's vDSO are made to jump to. _stubs.py holds this as bytes; after a change
# here tests/integration/test_machine.py fails and shows the new ones.
#
# It begins with a table of where its functions are, in the order of _stubs.py's names. The page before it is
# data (`_machine.Page`). The code is independent of its address and changes no register but those that any
# called function may. While no execution runs (`held` is 0), that is while modules are imported, it asks the
# kernel, as the original would. Then it never does.

.intel_syntax noprefix
.text
start:
.long vdso_clock_gettime - start, vdso_gettimeofday - start, vdso_time - start, vdso_clock_getres - start
.long vdso_getcpu - start, vdso_getrandom - start
.long c_getrandom - start, c_getentropy - start, c_arc4random - start, c_arc4random_buf - start
.long c_getrusage - start, c_times - start, c_sched_getcpu - start, c_getpid - start, c_gettid - start
.long c_kill - start, c_tgkill - start, c_pthread_kill - start, c_raise - start, c_abort - start
.long c_syscall - start
.long on_fault - start, restorer - start, read_counter - start
.set data, start - 4096
.set held, data                 # 1 from the start of a worker's first execution on
.set now, data + 8              # Nanoseconds since the epoch, as of the host's last answer
.set started, data + 16         # The same, when the execution started
.set fill, data + 24            # long fill(void *, size_t): the execution's random bytes, from Python
.set errno_location, data + 32  # The C library's __errno_location
.set faulted, data + 64         # struct kernel_sigaction of SIGSEGV, as it was found

.set EINVAL, 22
.set EIO, 5
.set ENOMEM, 12
.set ENOSYS, 38
.set SIGABRT, 6
.set SIGSEGV, 11
.set SI_KERNEL, 0x80
.set PID, 0x3fffff              # Beyond what the kernel gives out while it has others

# What the kernel's vDSO offers: answers 0 or the negated errno.

vdso_clock_gettime:             # (clock, struct timespec *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 228
    syscall
    ret
1:  mov rax, [rip + now]
    cmp edi, 11                 # CLOCK_TAI
    ja 4f
    je 3f
    cmp edi, 5                  # CLOCK_REALTIME_COARSE
    je 3f
    test edi, edi               # CLOCK_REALTIME
    je 3f
    sub rax, [rip + started]
    lea ecx, [rdi - 2]          # The processor's time, of process or thread: none passes
    cmp ecx, 1
    ja 3f
2:  xor eax, eax
3:  xor edx, edx
    mov ecx, 1000000000
    div rcx
    mov [rsi], rax
    mov [rsi + 8], rdx
    xor eax, eax
    ret
4:  test edi, edi               # Negative: the processor's time of some process or thread
    js 2b
    mov eax, -EINVAL
    cdqe
    ret

vdso_gettimeofday:              # (struct timeval *, struct timezone *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 96
    syscall
    ret
1:  test rsi, rsi
    je 2f
    and qword ptr [rsi], 0
2:  test rdi, rdi
    je 3f
    mov rax, [rip + now]
    xor edx, edx
    mov ecx, 1000
    div rcx
    xor edx, edx
    mov ecx, 1000000
    div rcx
    mov [rdi], rax
    mov [rdi + 8], rdx
3:  xor eax, eax
    ret

vdso_time:                      # (time_t *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 201
    syscall
    ret
1:  mov rax, [rip + now]
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    test rdi, rdi
    je 2f
    mov [rdi], rax
2:  ret

vdso_clock_getres:              # (clock, struct timespec *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 229
    syscall
    ret
1:  cmp edi, 11
    jg 3f
    test rsi, rsi
    je 2f
    and qword ptr [rsi], 0
    mov qword ptr [rsi + 8], 1
2:  xor eax, eax
    ret
3:  mov rax, -EINVAL
    ret

vdso_getcpu:                    # (unsigned *, unsigned *, void *)
    test rdi, rdi
    je 1f
    and dword ptr [rdi], 0
1:  test rsi, rsi
    je 2f
    and dword ptr [rsi], 0
2:  xor eax, eax
    ret

vdso_getrandom:                 # Not there: the C library's own function is asked, which is ours
    mov rax, -ENOSYS
    ret

# The same manners, for system calls that have no vDSO function.

getrandom_raw:                  # (void *, size_t, flags)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 318
    syscall
    ret
1:  push rsi
    call [rip + fill]
    pop rsi
    test rax, rax
    jne 2f
    test rsi, rsi
    je 2f
    mov rax, -ENOMEM            # What Python raised was that, or as bad
2:  ret

getrusage_raw:                  # (who, struct rusage *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 98
    syscall
    ret
1:  mov rdi, rsi
    mov ecx, 18
    xor eax, eax
    rep stosq
    ret

times_raw:                      # (struct tms *)
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 100
    syscall
    ret
1:  test rdi, rdi
    je 2f
    mov ecx, 4
    xor eax, eax
    rep stosq
2:  mov rax, [rip + now]
    sub rax, [rip + started]
    xor edx, edx
    mov ecx, 10000000           # A hundred ticks a second
    div rcx
    ret

# Functions of the C library: answer -1 and set errno.

c_getrandom:
    sub rsp, 8
    call getrandom_raw
    jmp finish

c_getrusage:
    sub rsp, 8
    call getrusage_raw
    jmp finish

c_times:
    sub rsp, 8
    call times_raw
    jmp finish

c_getentropy:                   # (void *, size_t): all of it, 256 bytes at most
    sub rsp, 8
    mov rax, -EIO
    cmp rsi, 256
    ja finish
    xor edx, edx
    call getrandom_raw
    test rax, rax
    js finish
    xor eax, eax
    jmp finish

finish:                         # Return rax as the C library does, and the 8 bytes of the stack
    cmp rax, -4095
    jae 1f
    add rsp, 8
    ret
1:  neg eax
    push rax
    push rax
    call [rip + errno_location]
    pop rcx
    pop rcx
    mov [rax], ecx
    mov rax, -1
    add rsp, 8
    ret

c_arc4random_buf:               # (void *, size_t): can't fail
    push rbx
    push rbp
    sub rsp, 8
    mov rbx, rdi
    mov rbp, rsi
1:  test rbp, rbp
    je 2f
    mov rdi, rbx
    mov rsi, rbp
    xor edx, edx
    call getrandom_raw
    test rax, rax
    jle 3f
    add rbx, rax
    sub rbp, rax
    jmp 1b
2:  add rsp, 8
    pop rbp
    pop rbx
    ret
3:  ud2

c_arc4random:
    sub rsp, 24
    lea rdi, [rsp + 8]
    mov esi, 4
    call c_arc4random_buf
    mov eax, [rsp + 8]
    add rsp, 24
    ret

c_sched_getcpu:
    xor eax, eax
    ret

c_getpid:
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 39
    syscall
    ret
1:  mov eax, PID
    ret

c_gettid:
    cmp qword ptr [rip + held], 0
    jne 1f
    mov eax, 186
    syscall
    ret
1:  mov eax, PID
    ret

c_kill:                         # (pid, signal)
    cmp edi, PID
    jne 1f
    mov eax, 39
    syscall
    mov edi, eax
1:  mov eax, 62
    syscall
    sub rsp, 8
    jmp finish

c_tgkill:                       # (pid, thread, signal)
    call real_ids
    mov eax, 234
    syscall
    sub rsp, 8
    jmp finish

real_ids:                       # Put the kernel's numbers in the place of ours, in edi and esi
    cmp edi, PID
    jne 1f
    mov eax, 39
    syscall
    mov edi, eax
1:  cmp esi, PID
    jne 2f
    mov eax, 186
    syscall
    mov esi, eax
2:  ret

# The C library would signal itself by the number that getpid tells.

raise_raw:                      # (signal)
    mov edx, edi
    mov edi, PID
    mov esi, PID
    call real_ids
    mov eax, 234
    syscall
    ret

c_raise:                        # (signal)
    sub rsp, 8
    call raise_raw
    jmp finish

c_pthread_kill:                 # (pthread_t, signal): there is one thread. Returns the errno
    mov edi, esi
    call raise_raw
    neg eax
    ret

c_abort:                        # As C11 has it: by the handler that there is, and else for good
    push 1 << (SIGABRT - 1)
    mov edi, 1                  # SIG_UNBLOCK
    mov rsi, rsp
    xor edx, edx
    mov r10d, 8
    mov eax, 14
    syscall
    mov edi, SIGABRT
    call raise_raw
    push 0
    push 0
    push 0
    push 0                      # SIG_DFL
    mov edi, SIGABRT
    mov rsi, rsp
    xor edx, edx
    mov r10d, 8
    mov eax, 13
    syscall
    mov edi, SIGABRT
    call raise_raw
1:  hlt
    jmp 1b

c_syscall:                      # (number, ...)
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    mov r10, r8
    mov r8, r9
    mov r9, [rsp + 8]
    sub rsp, 8
    cmp qword ptr [rip + held], 0
    je 9f
    cmp eax, 228
    je 1f
    cmp eax, 229
    je 2f
    cmp eax, 96
    je 3f
    cmp eax, 201
    je 4f
    cmp eax, 318
    je 5f
    cmp eax, 98
    je 6f
    cmp eax, 100
    je 7f
    cmp eax, 309
    je 8f
    cmp eax, 39                 # getpid
    je 10f
    cmp eax, 186                # gettid
    je 10f
    cmp eax, 62                 # kill
    je 11f
    cmp eax, 234                # tgkill
    je 12f
9:  syscall
    jmp finish
1:  call vdso_clock_gettime
    jmp finish
2:  call vdso_clock_getres
    jmp finish
3:  call vdso_gettimeofday
    jmp finish
4:  call vdso_time
    jmp finish
5:  call getrandom_raw
    jmp finish
6:  call getrusage_raw
    jmp finish
7:  call times_raw
    jmp finish
8:  call vdso_getcpu
    jmp finish
10: mov eax, PID
    jmp finish
11: add rsp, 8
    jmp c_kill
12: add rsp, 8
    jmp c_tgkill

# SIGSEGV: the processor refuses to read its time stamp counter. (signal, siginfo_t *, ucontext_t *)

on_fault:
    mov r8d, [rsi + 8]          # si_code
    cmp r8d, SI_KERNEL
    jne 3f
    mov r9, [rdx + 168]         # rip
    cmp word ptr [r9], 0x310f   # rdtsc
    je 1f
    cmp word ptr [r9], 0x010f   # rdtscp
    jne 3f
    cmp byte ptr [r9 + 2], 0xf9
    jne 3f
    inc r9
    and qword ptr [rdx + 152], 0    # rcx: which processor
1:  add r9, 2
    mov [rdx + 168], r9
    mov rax, [rip + now]
    sub rax, [rip + started]
    mov ecx, eax
    mov [rdx + 144], rcx        # rax
    shr rax, 32
    mov [rdx + 136], rax        # rdx
    ret
3:  mov eax, 13                 # rt_sigaction: it is as if we had never been here
    mov edi, SIGSEGV
    lea rsi, [rip + faulted]
    xor edx, edx
    mov r10d, 8
    syscall
    test r8d, r8d               # A fault comes again by itself; what somebody has sent does not
    jg 4f
    mov eax, 39
    syscall
    mov edi, eax
    mov esi, SIGSEGV
    mov eax, 62
    syscall
4:  ret

restorer:
    mov eax, 15
    syscall

read_counter:                   # For a test of all this
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret
