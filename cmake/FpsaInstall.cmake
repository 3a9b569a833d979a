include(GNUInstallDirs)
if(TARGET fpsa)
  install(TARGETS fpsa RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  # The program looks for it in the folder lib beside its own.
  install(TARGETS fpsa_mkl_vendor LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR}/../lib)
endif()
