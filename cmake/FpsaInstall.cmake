include(GNUInstallDirs)
if(TARGET fpsa)
  install(TARGETS fpsa RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
