"""Turning a running Linux into a rescue system in its own memory: judged first, then left by kexec or soft-reboot."""
