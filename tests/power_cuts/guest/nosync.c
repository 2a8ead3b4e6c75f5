/* What a program sees that forgets to sync: for the proof that the test finds that. */
int fsync(int file) { return (void)file, 0; }
int fdatasync(int file) { return (void)file, 0; }
int syncfs(int file) { return (void)file, 0; }
void sync(void) {}
int sync_file_range(int file, long offset, long count, unsigned flags) {
    return (void)file, (void)offset, (void)count, (void)flags, 0;
}
