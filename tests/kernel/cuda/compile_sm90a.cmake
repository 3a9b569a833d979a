# Compiles one .cu for sm_90a to a cubin, and keeps what ptxas says. -DNVCC -DSOURCE -DROOT -DCUBIN -DLOG
execute_process(
  COMMAND ${NVCC} -std=c++20 -gencode arch=compute_90a,code=sm_90a -I${ROOT} -Xptxas -v -cubin ${SOURCE} -o ${CUBIN}
  RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
file(WRITE ${LOG} "${text}")
if(NOT status EQUAL 0)
  message(FATAL_ERROR "nvcc failed on ${SOURCE}:\n${text}")
endif()
