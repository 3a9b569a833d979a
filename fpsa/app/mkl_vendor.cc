// Preloaded into one of the processes in which `fpsa bench` times torch: MKL, to which torch hands the matrix products
// of its attention, takes a slow path unless this function of its says that the processor is Intel's. A comparison only
// with that path would credit our kernels with what it gives away.
extern "C" int mkl_serv_intel_cpu_true() {
  return 1;
}
